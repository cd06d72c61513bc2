"""Attention operators: `<op>/reference.py` is the specification, `select.py` picks an implementation and says why."""
