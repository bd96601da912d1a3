"""The smallest of everything that xp takes from outside, each a package and a YAML file. To copy: docs/extending.md."""
