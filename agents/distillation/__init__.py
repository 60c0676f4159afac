"""Learning from trained agents (survey: Vithayathil Varghese and Mahmoud, 2020; Czarnecki et al., 2019)."""
