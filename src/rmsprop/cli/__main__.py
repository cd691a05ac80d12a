from rmsprop.cli import main

main()
