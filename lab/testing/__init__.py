"""For tests of your own against running labs: a pytest plugin, and testinfra hosts for nodes (docs/testing.md)."""
