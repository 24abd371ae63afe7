//! The wire schema of ODGM and what is generated from it.
