//! `weft-e2e`: the demo, and the small programs that its pods run.

use std::process::ExitCode;

use clap::Parser;
use weft_e2e::apps::{AppError, certify, get, grpc, http_server, load, tcp, websocket};
use weft_e2e::{demo, image};

/// Pods made of network namespaces: the demo, and what runs in them.
#[derive(Debug, Parser)]
enum Command {
    /// A canary split over mesh TLS between real processes, shown live and measured.
    Demo(demo::DemoArgs),
    /// An image of a few files on nothing, without a container engine.
    Image(image::Image),
    /// An HTTP server that writes down every request.
    HttpServer(http_server::HttpServer),
    /// An HTTP client of fixed rate that writes down every answer.
    Load(load::Load),
    /// One HTTP request, or some, and all about the answers.
    Get(get::Get),
    /// Asks the control plane for a certificate, and for configuration: as it should be, or not.
    Certify(certify::Certify),
    /// A gRPC server.
    GrpcServer(grpc::GrpcServer),
    /// A gRPC client that uses all four forms of call.
    GrpcClient(grpc::GrpcClient),
    /// A TCP server that speaks first and then echoes.
    TcpServer(tcp::TcpServer),
    /// A TCP client that times the first byte.
    TcpClient(tcp::TcpClient),
    /// A WebSocket client.
    WebSocketClient(websocket::WebSocketClient),
}

fn main() -> ExitCode {
    let outcome = match Command::parse() {
        Command::Demo(args) => return demo::run(&args),
        Command::Image(image) => image::run(&image).map_err(AppError::from),
        app => tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(AppError::from)
            .and_then(|runtime| runtime.block_on(run(app))),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("weft-e2e: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(command: Command) -> Result<(), AppError> {
    match command {
        Command::Demo(_) | Command::Image(_) => Ok(()),
        Command::HttpServer(options) => http_server::run(options).await,
        Command::Load(options) => load::run(options).await,
        Command::Get(options) => get::run(options).await,
        Command::Certify(options) => certify::run(options).await,
        Command::GrpcServer(options) => grpc::server(options).await,
        Command::GrpcClient(options) => grpc::client(options).await,
        Command::TcpServer(options) => tcp::server(options).await,
        Command::TcpClient(options) => tcp::client(options).await,
        Command::WebSocketClient(options) => websocket::client(options).await,
    }
}
