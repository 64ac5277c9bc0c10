"""What `flawmap COMMAND` does, one file a command, callable from Python; the command line parses and prints.

Paths and settings come in; model files, results and exit codes go out.
It calls every other room.
"""
