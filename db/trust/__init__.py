"""How far predictions can be trusted at this site: profiles, comparison, acceptances."""
