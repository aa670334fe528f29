"""Certificates by which nodes, tenants and administrators know each other."""
