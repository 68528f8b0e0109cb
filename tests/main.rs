//! Black-box tests of the binary `runner`, one file a feature. They need the test bed: `./dev test`.
#![allow(unreachable_pub, reason = "nobody uses these tests from outside")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on has failed, and says where"
)]

mod architecture;
mod build;
mod codebuild;
mod commands;
mod context;
mod docker;
mod doctor;
mod ecs;
mod environment;
mod failures;
mod faults;
mod handing_on;
mod harness;
mod image_tests;
mod language;
mod limits;
mod masking;
mod notifications;
mod parallel;
mod planning;
mod policy;
mod processes;
mod publish;
mod push;
mod scan;
mod scratch;
mod servers;
mod services;
mod signals;
mod state;
mod torture;
mod unchanged;
mod validate;
