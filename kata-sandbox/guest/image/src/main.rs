//! Makes, verifies and shows guest images. See `kata-image help`.

mod cli;

fn main() -> std::process::ExitCode {
    cli::run()
}
