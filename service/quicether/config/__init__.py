"""TOML, environment, flags, profile data and D-Bus options → one validated `Settings`.

options: the one vocabulary, a flat table of keys (light to import, the command line uses it).
values: text or TOML value → typed value. settings: the typed sections and the rules between them.
load: files, environment and flags in their order of precedence.
"""
