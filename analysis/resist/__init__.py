"""The resistance of a training that is known by its predictions alone: edges of poison rates, changes of its knobs."""
