//! Generates the Rust side of the wire contracts with `protoc`.
fn main() -> std::io::Result<()> {
    tonic_prost_build::configure().compile_protos(&["proto/teamster/agent/v1/agent.proto"], &["proto"])
}
