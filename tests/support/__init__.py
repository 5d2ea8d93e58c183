"""The lab: hosts in namespaces, cables between them, and everything gone afterwards."""
