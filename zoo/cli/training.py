"""`zoo fit`, `zoo validate`."""

from zoo import recipe


def fit(argv: list[str]) -> int:
    asks = {"-h", "--help"} & set(argv)
    if not argv or (asks and argv[0].startswith("-")):
        print(recipe.FIT_HELP)
        return 0
    from zoo.train import fit

    return fit.describe([a for a in argv if a not in asks]) if asks else fit.fit(argv)


def validate(argv: list[str]) -> int:
    if not argv or "-h" in argv or "--help" in argv:
        print(recipe.VALIDATE_HELP)
        return 0
    if "--estimate" in argv:
        from zoo.train import estimate

        return estimate.main(argv)
    from zoo.train import fit

    return fit.validate(argv)
