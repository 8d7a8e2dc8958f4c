"""`python -m datasets.toy_city FOLDER`."""

from .city import main

if __name__ == "__main__":
    main()
