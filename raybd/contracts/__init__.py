"""What methods promise, raybd's own and those of others: `raybd check` and the tests ask for the same."""
