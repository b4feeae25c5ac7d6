//! The integration tests: one binary, so that one program is linked. Most of them talk HTTP to a whole application on
//! a temporary directory; `tidy`, `openapi` and `config_files` read what is checked in.

mod aging;
mod audit;
mod authz;
mod config_files;
mod contract;
mod copy_store;
mod crash;
mod database_outage;
mod direct;
mod edge;
mod errors;
mod fuzz;
mod import_original;
mod isolation;
mod keys;
mod large;
mod limits;
mod memory;
mod migrations;
mod oidc;
mod old_directory;
mod openapi;
mod postgres_start;
mod quotas;
mod recall;
mod replicas;
mod row_security;
mod support;
mod tidy;
mod transfer;
