//! The one binary, `margay`, as a library: its commands, to be called by it and by the end-to-end tests.

#![forbid(unsafe_code)]

pub mod annotate;
pub mod audit;
pub mod authority;
pub mod bench;
pub mod bundle;
pub mod calibrate;
pub mod chat;
pub mod compare;
pub mod config;
pub mod console;
pub mod demo;
pub mod device;
pub mod doctor;
mod error;
pub mod evaluate;
mod examples;
pub mod exit;
pub mod export;
pub mod gateway;
pub mod generate;
mod interrupt;
mod library;
pub mod logging;
pub mod score;
pub mod serve;
pub mod shell;
pub mod train;

use std::process::ExitCode;

use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

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
    Calibrate(Box<calibrate::CalibrateArgs>),
    /// Compare two bundles, or two outcome tables, on the same queries
    Compare(Box<compare::CompareArgs>),
    /// Keep what a large model thinks of every training target
    Annotate(annotate::AnnotateArgs),
    /// Train a model from a recipe
    Train(train::TrainArgs),
    /// Make a bundle from a checkpoint, verified against it, or a Rust module for firmware
    Export(export::ExportArgs),
    /// Hold a bundle against the checkpoint it was exported from
    Verify(export::VerifyArgs),
    /// Answer one prompt, or choose among given answers
    Generate(Box<generate::GenerateArgs>),
    /// Talk to a bundle, with its confidence after every answer
    Chat(Box<chat::ChatArgs>),
    /// Answer what microcontrollers ask over a serial line
    Gateway(gateway::GatewayArgs),
    /// Run a task file through a bundle, into an outcome table
    Score(Box<score::ScoreArgs>),
    /// List execution providers, and what a bundle really runs on
    Devices(device::DevicesArgs),
    /// Serve a bundle, a cascade or a cloud to OpenAI-compatible clients
    Serve(Box<serve::ServeArgs>),
    /// Look into bundles, verify, sign, pack and compare them
    #[command(subcommand)]
    Bundle(bundle::BundleCommand),
    /// Check a margay.toml, or print an example of one
    Config(config::ConfigArgs),
    /// Say what left the device, by its audit file
    Audit(audit::AuditArgs),
    /// Look whether everything is there that Margay needs
    Doctor(doctor::DoctorArgs),
    /// Print what makes a shell complete these commands
    Completions(shell::CompletionsArgs),
    /// Write the manual's pages
    Man(shell::ManArgs),
}

/// The command line as clap knows it, examples included, for whoever checks or completes one.
#[must_use]
pub fn command() -> clap::Command {
    examples::with(Cli::command())
}

/// Runs what the command line says, and ends with one of the codes of [`exit`].
#[must_use]
pub fn main() -> ExitCode {
    let cli = match Cli::from_arg_matches(&command().get_matches()) {
        Ok(cli) => cli,
        Err(error) => error.exit(),
    };
    let mut console = Console::standard();
    let done = match cli.command {
        Command::Bench(args) => bench::bench(&args, &mut console),
        Command::Demo(args) => demo::demo(&args, &mut console).map(drop),
        Command::Evaluate(args) => evaluate::evaluate(&args, &mut console).map(drop),
        Command::Calibrate(args) => calibrate::calibrate(&args, &mut console).map(drop),
        Command::Compare(args) => compare::compare(&args, &mut console).map(drop),
        Command::Annotate(args) => annotate::annotate(&args, &mut console).map(drop),
        Command::Train(args) => train::train(&args, &mut console),
        Command::Export(args) => export::run(&args, &mut console),
        Command::Verify(args) => export::verify(&args, &mut console).map(drop),
        Command::Generate(args) => generate::generate(&args, &mut console),
        Command::Chat(args) => chat::chat(&args, &mut std::io::stdin().lock(), &mut console),
        Command::Gateway(args) => gateway::gateway(&args, &mut console),
        Command::Score(args) => score::score(&args, &mut console).map(drop),
        Command::Devices(args) => device::devices(&args, &mut console).map(drop),
        Command::Serve(args) => serve::serve(&args, &mut console),
        Command::Bundle(command) => bundle::run(&command, &mut console),
        Command::Config(args) => config::config(&args, &mut console),
        Command::Audit(args) => audit::audit(&args, &mut console),
        Command::Doctor(args) => doctor::doctor(&args, &mut console),
        Command::Completions(args) => shell::completions(&args, &mut console),
        Command::Man(args) => shell::man(&args, &mut console),
    };
    if let Err(error) = &done {
        console::complain(error);
    }
    exit::of(&done)
}
