"""The command line: one click group whose commands are loaded when used. Faces without logic."""
