"""The main job on embedded data, in each of the five modes."""
