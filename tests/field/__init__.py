"""Public training programs, as their authors wrote them, asked in hindsight and held against an oracle."""
