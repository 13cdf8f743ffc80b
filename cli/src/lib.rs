//! The one binary, `margay`, as a library: its commands, to be called by it and by the end-to-end tests.

#![forbid(unsafe_code)]

pub mod annotate;
pub mod audit;
pub mod authority;
pub mod bench;
pub mod bundle;
pub mod chat;
pub mod compare;
pub mod config;
pub mod console;
pub mod demo;
pub mod device;
mod error;
pub mod evaluate;
pub mod export;
pub mod generate;
mod interrupt;
mod library;
pub mod score;
pub mod serve;
pub mod train;

use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};

pub use error::{Error, Result};

use console::Console;

/// An on-device language model runtime that knows when to ask the cloud
#[derive(Debug, Parser)]
#[command(name = "margay", version, about, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Measure how fast a bundle runs here, alone or beside llama.cpp
    Bench(bench::BenchArgs),
    /// Train, export, run and measure a cascade on CLINC150
    Demo(demo::DemoArgs),
    /// Measure a chain of models on outcome tables
    Evaluate(evaluate::EvaluateArgs),
    /// Choose a threshold on an outcome table and bind it to a bundle
    Calibrate(evaluate::CalibrateArgs),
    /// Compare two bundles, or two outcome tables, on the same queries
    Compare(Box<compare::CompareArgs>),
    /// Keep what a large model thinks of every training target
    Annotate(annotate::AnnotateArgs),
    /// Train a model from a recipe
    Train(train::TrainArgs),
    /// Make a bundle from a checkpoint, verified against it
    Export(export::ExportArgs),
    /// Hold a bundle against the checkpoint it was exported from
    Verify(export::VerifyArgs),
    /// Answer one prompt, or choose among given answers
    Generate(Box<generate::GenerateArgs>),
    /// Talk to a bundle, with its confidence after every answer
    Chat(Box<chat::ChatArgs>),
    /// Run a task file through a bundle, into an outcome table
    Score(Box<score::ScoreArgs>),
    /// List execution providers, and what a bundle really runs on
    Devices(device::DevicesArgs),
    /// Look into bundles, verify, sign, pack and compare them
    #[command(subcommand)]
    Bundle(bundle::BundleCommand),
    /// Check a margay.toml, or print an example of one
    Config(config::ConfigArgs),
    /// Say what left the device, by its audit file
    Audit(audit::AuditArgs),
}

/// The command line as clap knows it, for whoever checks or completes one.
#[must_use]
pub fn command() -> clap::Command {
    Cli::command()
}

/// Runs what the command line says. Exit code 0 on success, 1 on failure, 2 for a command line that makes no sense.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let mut console = Console::standard();
    let done = match cli.command {
        Command::Bench(args) => bench::bench(&args, &mut console),
        Command::Demo(args) => demo::demo(&args, &mut console).map(drop),
        Command::Evaluate(args) => evaluate::evaluate(&args, &mut console).map(drop),
        Command::Calibrate(args) => evaluate::calibrate(&args, &mut console).map(drop),
        Command::Compare(args) => compare::compare(&args, &mut console).map(drop),
        Command::Annotate(args) => annotate::annotate(&args, &mut console).map(drop),
        Command::Train(args) => train::train(&args, &mut console),
        Command::Export(args) => export::export(&args, &mut console).map(drop),
        Command::Verify(args) => export::verify(&args, &mut console).map(drop),
        Command::Generate(args) => generate::generate(&args, &mut console),
        Command::Chat(args) => chat::chat(&args, &mut std::io::stdin().lock(), &mut console),
        Command::Score(args) => score::score(&args, &mut console).map(drop),
        Command::Devices(args) => device::devices(&args, &mut console).map(drop),
        Command::Bundle(command) => bundle::run(&command, &mut console),
        Command::Config(args) => config::config(&args, &mut console),
        Command::Audit(args) => audit::audit(&args, &mut console),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            console::complain(&error);
            ExitCode::FAILURE
        }
    }
}
