def get_ipython() -> None:
    """There is no interactive shell; matplotlib asks."""
