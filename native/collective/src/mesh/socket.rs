//! Sockets as the links want them: nonblocking, without delay, with large buffers; and waiting on several at once.

use super::stream::Stream;
use rustix::event::{PollFd, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, connect, listen as start_listening, socket_with,
    sockopt,
};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Duration;

/// Room for both sides to run ahead of each other. Measured on loopback: 1 and 2 MiB are alike, 512 KiB is slower for
/// long messages and 256 KiB takes twice the time.
const BUFFER: usize = 2 * 1024 * 1024;

/// After so long without a byte the kernel asks whether the peer's machine is still there, and gives up after three
/// unanswered questions. Dead processes show at once; this is for machines that vanish.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(10);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEPALIVE_COUNT: u32 = 3;

/// Binds a port of the system's choice for `host`; see [`Listener::bind`](crate::Listener::bind).
pub(crate) fn listen(host: &str) -> io::Result<TcpListener> {
    let literal: Option<IpAddr> = host.trim_start_matches('[').trim_end_matches(']').parse().ok();
    let (address, exact) = match literal {
        Some(address) => (address, true),
        None => {
            let known: Vec<SocketAddr> = (host, 0).to_socket_addrs()?.collect();
            let v4 = known.iter().any(SocketAddr::is_ipv4);
            let any = if v4 { IpAddr::V4(Ipv4Addr::UNSPECIFIED) } else { IpAddr::V6(Ipv6Addr::UNSPECIFIED) };
            match known.iter().find(|address| address.is_ipv4() == v4) {
                Some(address) if host == "localhost" => (address.ip(), true),
                _ => (any, false),
            }
        }
    };
    match listen_on(SocketAddr::new(address, 0)) {
        Err(error) if exact && error.kind() == io::ErrorKind::AddrNotAvailable => {
            log::warn!("{host} is not an address of this machine: listening on all its addresses instead");
            let any = match address {
                IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
                IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
            };
            listen_on(SocketAddr::new(any, 0))
        }
        other => other,
    }
}

fn listen_on(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = open(&address)?;
    bind(&socket, &address)?;
    start_listening(&socket, 128)?;
    Ok(TcpListener::from(socket))
}

/// Begins to connect. The stream is nonblocking; it is writable when connected, and [`connected`] tells.
pub(super) fn dial(address: SocketAddr) -> io::Result<TcpStream> {
    let socket = open(&address)?;
    match connect(&socket, &address) {
        Ok(()) | Err(Errno::INPROGRESS) => Ok(TcpStream::from(socket)),
        Err(error) => Err(error.into()),
    }
}

/// Listens under a name in the abstract namespace, which ends with the socket.
pub(crate) fn listen_locally(name: &str) -> io::Result<UnixListener> {
    let socket = open_locally()?;
    bind(&socket, &SocketAddrUnix::new_abstract_name(name.as_bytes())?)?;
    start_listening(&socket, 128)?;
    Ok(UnixListener::from(socket))
}

/// Connects to such a name. That is done at once or not at all.
pub(super) fn dial_locally(name: &str) -> io::Result<UnixStream> {
    let socket = open_locally()?;
    connect(&socket, &SocketAddrUnix::new_abstract_name(name.as_bytes())?)?;
    Ok(UnixStream::from(socket))
}

fn open_locally() -> io::Result<OwnedFd> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).map_err(io::Error::from)
}

/// The result of an attempt to connect, once the stream is writable.
pub(super) fn connected(stream: &impl AsFd) -> io::Result<()> {
    sockopt::socket_error(stream)?.map_err(io::Error::from)
}

/// Buffer sizes must be set before the connection is made: the window's scale is settled then.
fn open(address: &SocketAddr) -> io::Result<OwnedFd> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let make = || socket_with(family, SocketType::STREAM, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC, None);
    let socket = make()?;
    if grants_large_buffers(&socket)? {
        // Sizes once set no longer grow by themselves, so they are set only where the system grants what is asked.
        sockopt::set_socket_recv_buffer_size(&socket, BUFFER)?;
        sockopt::set_socket_send_buffer_size(&socket, BUFFER)?;
        return Ok(socket);
    }
    make().map_err(io::Error::from)
}

/// Linux doubles what is asked and caps it at `net.core.{r,w}mem_max`, 208 KiB by default: less than what its own
/// adjustment reaches when left alone.
fn grants_large_buffers(socket: &OwnedFd) -> io::Result<bool> {
    sockopt::set_socket_recv_buffer_size(socket, BUFFER)?;
    sockopt::set_socket_send_buffer_size(socket, BUFFER)?;
    Ok(sockopt::socket_recv_buffer_size(socket)? >= BUFFER && sockopt::socket_send_buffer_size(socket)? >= BUFFER)
}

/// Prepares a connected or accepted stream.
pub(super) fn tune(stream: &Stream) -> io::Result<()> {
    let stream = match stream {
        Stream::Unix(stream) => return stream.set_nonblocking(true),
        Stream::Tcp(stream) => &**stream,
        Stream::Tls(stream, _) => stream.tcp(),
    };
    stream.set_nonblocking(true)?;
    stream.set_nodelay(true)?;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, KEEPALIVE_IDLE)?;
    sockopt::set_tcp_keepintvl(stream, KEEPALIVE_INTERVAL)?;
    sockopt::set_tcp_keepcnt(stream, KEEPALIVE_COUNT)?;
    Ok(())
}

/// Waits until one of `fds` is ready, or for `atmost`.
pub(super) fn wait(fds: &mut [PollFd<'_>], atmost: Duration) -> io::Result<()> {
    let timeout = Timespec {
        tv_sec: i64::try_from(atmost.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(atmost.subsec_nanos()),
    };
    match poll(fds, Some(&timeout)) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
