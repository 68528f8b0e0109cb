//! Hands the layout of the binary to the linker. Debug builds are linked often and measured never: they go without.

fn main() {
    let layout = format!("{}/.cargo/layout.ld", env!("CARGO_MANIFEST_DIR"));
    println!("cargo::rerun-if-changed={layout}");
    if std::env::var("PROFILE").is_ok_and(|profile| profile == "release") {
        println!("cargo::rustc-link-arg-bin=runner=-Wl,-T,{layout}");
    }
}
