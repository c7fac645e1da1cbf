"""The engine: what makes the homework comfortable, safe and fast. What a student writes is not in here."""
