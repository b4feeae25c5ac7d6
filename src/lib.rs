//! Engramia: memory for AI agents.
//!
//! Faces ([`http`], [`cli`]) translate and authorise, [`service`] holds the use cases, [`store`] and [`ports`] are
//! traits that `store::sqlite` and [`adapter`] implement, [`domain`] holds types and rules without I/O. [`app`] wires
//! them. `docs/architecture.md` draws the house; a test keeps the walls.

pub mod adapter;
pub mod app;
pub mod auth;
pub mod cli;
pub mod compute;
pub mod config;
pub mod domain;
pub mod http;
pub mod jobs;
pub mod ports;
pub mod redaction;
pub mod service;
pub mod store;
pub mod telemetry;
pub mod vector;
