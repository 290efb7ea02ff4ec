//! The `thermocline` binary; what it does is in the library beside it, where tests can reach it.

fn main() -> std::process::ExitCode {
    thermocline_server::cli::main()
}
