"""`./dev bench`: Dovetail beside a floor and beside stock Dovecot. docs/bench.md says what is measured."""
