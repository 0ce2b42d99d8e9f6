//! One file per subcommand: a clap `Args` and a `run`.

pub(crate) mod alluxio;
pub(crate) mod check;
pub(crate) mod completions;
pub(crate) mod config;
pub(crate) mod demo;
pub(crate) mod doctor;
pub(crate) mod hint;
pub(crate) mod load;
pub(crate) mod ls;
pub(crate) mod man;
pub(crate) mod mount;
pub(crate) mod nodes;
pub(crate) mod stat;
pub(crate) mod status;
pub(crate) mod top;
pub(crate) mod umount;
pub(crate) mod usage;
pub(crate) mod watchdog;
