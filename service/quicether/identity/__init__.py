"""Who a node is: keys, certificates, a network's authority, trust, enrolment."""
