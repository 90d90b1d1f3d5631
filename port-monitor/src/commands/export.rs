//! `port-monitor export`: what a receiver of an export needs to be made of.

use clap::{Subcommand, ValueEnum};

use crate::{
    base::exit_code::{ExitCode, Failure},
    consume::{export::schema, output::target::print},
};

/// Arguments of `export`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Print the tables, or the stream, that a receiver needs
    Schema(SchemaArgs),
}

#[derive(Debug, clap::Args)]
struct SchemaArgs {
    /// The receiver
    #[arg(value_name = "RECEIVER")]
    receiver: Receiver,
    /// Print what this cluster needs: the table of all its shards too, or a stream on three servers
    #[arg(
        long,
        value_name = "NAME",
        allow_hyphen_values = true,
        value_parser = schema::parse_cluster
    )]
    cluster: Option<String>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Receiver {
    /// `ClickHouse`, 18.16 and later
    Clickhouse,
    /// NATS `JetStream`
    Nats,
}

/// Prints what is asked for.
pub fn run(args: &Args) -> Result<ExitCode, Failure> {
    let Command::Schema(args) = &args.command;
    let text = match args.receiver {
        Receiver::Clickhouse => schema::clickhouse(args.cluster.as_deref()),
        Receiver::Nats => schema::nats(args.cluster.as_deref()),
    };
    print(text.as_bytes())
}
