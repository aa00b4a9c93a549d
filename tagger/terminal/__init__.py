"""How a program starts, reports, shows progress and writes files."""
