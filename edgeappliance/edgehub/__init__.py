"""Identity and enrolment, and the one link to the cloud."""
