"""The engine: what makes the homework comfortable, safe and fast. No part of the handout is answered in here."""
