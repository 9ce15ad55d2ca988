"""`python -m tiercel`: the program, where its script is not on the path."""

from tiercel.cli.main import main

main()
