//! The integration tests: one binary, so that one program is linked. Most of them talk HTTP to a whole application on
//! a temporary directory; `tidy`, `openapi` and `config_files` read what is checked in.

mod aging;
mod authz;
mod config_files;
mod contract;
mod crash;
mod edge;
mod errors;
mod fuzz;
mod limits;
mod memory;
mod old_directory;
mod openapi;
mod recall;
mod support;
mod tidy;
mod transfer;
