"""The engine room: what makes the homework comfortable, safe and quick. Nothing in here answers the handout."""
