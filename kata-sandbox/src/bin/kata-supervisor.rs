//! A supervisor for programs that are none themselves: see
//! `kata_sandbox::supervisor`.

use std::process::ExitCode;

fn main() -> ExitCode {
    match kata_sandbox::supervisor::serve(|runtime| runtime) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("kata-supervisor: {error:#}");
            ExitCode::FAILURE
        }
    }
}
