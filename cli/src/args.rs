//! Options that several subcommands share. What a subcommand's own options mean stands beside its code.

use clap::{Args, ValueEnum};

/// Which coordinator is meant.
#[derive(Debug, Clone, Args)]
pub(crate) struct ServerArgs {
    /// URL of the coordinator's REST API
    #[arg(long, env = "TEAMSTER_SERVER", default_value = "http://127.0.0.1:8000", value_name = "URL")]
    pub(crate) server: String,
}

/// Where changes of tasks are told.
#[derive(Debug, Clone, Args)]
pub(crate) struct GrpcArgs {
    /// The coordinator's gRPC API, HOST:PORT or a URL [default: port 8001 of the server's host]
    #[arg(long, env = "TEAMSTER_GRPC", value_name = "ADDR")]
    pub(crate) grpc: Option<String>,
}

/// How results are written.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct FormatArgs {
    /// How to write the result
    #[arg(long = "output", value_enum, default_value_t = Format::Table, value_name = "FORMAT")]
    pub(crate) format: Format,
}

/// The two ways to write a result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people
    Table,
    /// For programs
    Json,
}

/// Where a process says what it does.
#[derive(Debug, Clone, Args)]
pub(crate) struct LogArgs {
    /// What is logged to standard error: a level, or `target=level` pairs as in RUST_LOG
    #[arg(long, env = "TEAMSTER_LOG", default_value = "info", value_name = "FILTER")]
    pub(crate) log: String,
    /// How it is written
    #[arg(long, env = "TEAMSTER_LOG_FORMAT", value_enum, default_value_t = LogFormat::Text, value_name = "FORMAT")]
    pub(crate) log_format: LogFormat,
}

/// The two ways to write a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// For people
    Text,
    /// One JSON object a line
    Json,
}

/// What was asked for makes no sense. The text says what would.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct UsageError(pub(crate) String);
