//! Turns on `cfg(fuzzing)`, which the sanitizer flags of `./dev soak` set as well: so `cargo check` compiles the same code.

fn main() {
    println!("cargo::rustc-check-cfg=cfg(fuzzing)");
    println!("cargo::rustc-cfg=fuzzing");
}
