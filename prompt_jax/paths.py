"""What a path is, before anything is read from it."""


def is_local(path) -> bool:
    return "://" not in str(path)
