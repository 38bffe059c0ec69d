"""How a node gets into the site: the CA, join tokens, and the HTTPS enrolment endpoints (reference 3)."""
