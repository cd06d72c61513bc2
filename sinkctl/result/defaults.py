"""What of a run came from its user's settings file: the command line says so here, and every result takes it."""

USED: dict[str, str] = {}
