//! A bad network between two ranks: a proxy for one rank's port, which does one kind of mischief.
//!
//! A rank is led to it by its roster, where the proxy's port stands in place of the peer's: [`Proxy::between`].

use super::Ticket;
use super::dice::Dice;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

/// What happens to the bytes of a connection. `at` counts the bytes of one direction.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Mischief {
    /// They come in small pieces, cut anywhere.
    Drip,
    /// The connection ends when so many have passed, with a reset or in order.
    Cut { at: u64, reset: bool },
    /// One bit of byte `at` is turned over.
    Flip { at: u64, bit: u8 },
    /// When so many have passed, no more do, either way; the connection stays open.
    Hush { at: u64 },
}

/// A direction of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// From the rank that connected.
    There,
    /// To it.
    Back,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Fault {
    pub(crate) mischief: Mischief,
    pub(crate) way: Way,
    /// The connection that it happens to, counted as they come: a rank connects its data link first, then its control
    /// link, then whatever it must connect again. None for all.
    pub(crate) victim: Option<usize>,
}

pub(crate) struct Proxy {
    port: u16,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    over: AtomicBool,
    struck: AtomicBool,
    harmless: AtomicBool,
    /// All connections, to be ended with the proxy.
    streams: Mutex<Vec<Weak<TcpStream>>>,
    /// Connections that are silent, to be kept open as long as the proxy.
    silent: Mutex<Vec<Arc<TcpStream>>>,
    pumps: Mutex<Vec<JoinHandle<()>>>,
}

impl Proxy {
    /// Stands in for the port that rank `from` knows of rank `to`, where `from` is the one that connects.
    pub(crate) fn between(tickets: &mut [Ticket], from: usize, to: usize, fault: Fault, dice: &mut Dice) -> Proxy {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let target = std::mem::replace(&mut tickets[from].roster[to].port, port);
        let shared = Arc::new(Shared::default());
        let mut dice = Dice::new(dice.roll());
        let thread = std::thread::spawn({
            let shared = Arc::clone(&shared);
            move || {
                for (number, come) in listener.incoming().enumerate() {
                    if shared.over.load(Ordering::SeqCst) {
                        return;
                    }
                    // Nobody listens there any more: the connection ends, as it would without a proxy.
                    let Ok(there) = TcpStream::connect((Ipv4Addr::LOCALHOST, target)) else { continue };
                    let fault = Some(fault).filter(|fault| fault.victim.is_none_or(|victim| victim == number));
                    connect(&shared, come.unwrap(), there, fault, &mut dice);
                }
            }
        });
        Proxy { port, shared, thread: Some(thread) }
    }

    /// How many connections have come.
    pub(crate) fn connections(&self) -> usize {
        self.shared.streams.lock().unwrap().len() / 2
    }

    /// Whether the mischief has been done and may show.
    pub(crate) fn has_struck(&self) -> bool {
        self.shared.struck.load(Ordering::SeqCst)
    }

    /// Whether, on some connection, what was turned over is a bit that nobody may look at: see [`Records`].
    pub(crate) fn was_harmless(&self) -> bool {
        self.shared.harmless.load(Ordering::SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::SeqCst);
        // So that it looks.
        let _ = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port));
        let _ = self.thread.take().map(JoinHandle::join);
        for stream in self.shared.streams.lock().unwrap().iter().filter_map(Weak::upgrade) {
            let _ = stream.shutdown(Shutdown::Both);
        }
        for pump in std::mem::take(&mut *self.shared.pumps.lock().unwrap()) {
            let _ = pump.join();
        }
    }
}

fn connect(shared: &Arc<Shared>, here: TcpStream, there: TcpStream, fault: Option<Fault>, dice: &mut Dice) {
    let (here, there) = (Arc::new(here), Arc::new(there));
    let silent = Arc::new(AtomicBool::new(false));
    let mut pumps = shared.pumps.lock().unwrap();
    for (way, from, to) in [(Way::There, &here, &there), (Way::Back, &there, &here)] {
        from.set_nodelay(true).unwrap();
        shared.streams.lock().unwrap().push(Arc::downgrade(from));
        let pump = Pump {
            shared: Arc::clone(shared),
            from: Arc::clone(from),
            to: Arc::clone(to),
            silent: Arc::clone(&silent),
            // Small pieces both ways.
            fault: fault
                .filter(|fault| fault.way == way || matches!(fault.mischief, Mischief::Drip))
                .map(|fault| fault.mischief),
            dice: Dice::new(dice.roll()),
            passed: 0,
            records: Records::default(),
        };
        pumps.push(std::thread::spawn(move || pump.run()));
    }
}

/// One direction of a connection.
struct Pump {
    shared: Arc<Shared>,
    from: Arc<TcpStream>,
    to: Arc<TcpStream>,
    silent: Arc<AtomicBool>,
    fault: Option<Mischief>,
    dice: Dice,
    passed: u64,
    records: Records,
}

impl Pump {
    fn run(mut self) {
        let mut buffer = vec![0; 64 * 1024];
        // What is to happen before the first byte happens now.
        let mut goes_on = self.pass(&mut []).is_ok();
        while goes_on {
            goes_on = match (&*self.from).read(&mut buffer) {
                Ok(0) if self.silent.load(Ordering::SeqCst) => false,
                Ok(0) => {
                    let _ = self.to.shutdown(Shutdown::Write);
                    false
                }
                Ok(count) => self.pass(&mut buffer[..count]).is_ok(),
                Err(_) => {
                    self.cut();
                    false
                }
            };
        }
    }

    /// Ends the connection both ways; the sockets close when the other pump has noticed.
    fn cut(&self) {
        for stream in [&self.from, &self.to] {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    fn pass(&mut self, bytes: &mut [u8]) -> std::io::Result<()> {
        if self.silent.load(Ordering::SeqCst) {
            return Ok(());
        }
        let start = self.passed;
        self.passed += bytes.len() as u64;
        let within = |at: u64| usize::try_from(at - start).unwrap();
        match self.fault {
            Some(Mischief::Drip) => return self.drip(bytes),
            Some(Mischief::Cut { at, reset }) if self.passed >= at => {
                (&*self.to).write_all(&bytes[..within(at)])?;
                self.shared.struck.store(true, Ordering::SeqCst);
                if reset {
                    for stream in [&self.from, &self.to] {
                        rustix::net::sockopt::set_socket_linger(stream, Some(Duration::ZERO))?;
                    }
                }
                self.cut();
                return Err(std::io::ErrorKind::BrokenPipe.into());
            }
            Some(Mischief::Hush { at }) if self.passed >= at => {
                (&*self.to).write_all(&bytes[..within(at)])?;
                self.silent.store(true, Ordering::SeqCst);
                self.shared.struck.store(true, Ordering::SeqCst);
                self.shared.silent.lock().unwrap().extend([Arc::clone(&self.from), Arc::clone(&self.to)]);
                return Ok(());
            }
            Some(Mischief::Flip { at, bit }) if (start..self.passed).contains(&at) => {
                let harmless = self.records.is_ignored(&bytes[..within(at)]);
                self.shared.harmless.fetch_or(harmless, Ordering::SeqCst);
                bytes[within(at)] ^= 1 << bit;
                self.shared.struck.store(true, Ordering::SeqCst);
            }
            Some(Mischief::Flip { .. }) => self.records.skip(bytes),
            _ => {}
        }
        (&*self.to).write_all(bytes)
    }

    fn drip(&mut self, mut bytes: &[u8]) -> std::io::Result<()> {
        while !bytes.is_empty() {
            // Mostly a few bytes; sometimes so many that long messages end this year.
            let most = self.dice.pick(&[3, 7, 50, 3000]);
            let (piece, rest) = bytes.split_at(bytes.len().min(1 + self.dice.below(most)));
            (&*self.to).write_all(piece)?;
            bytes = rest;
        }
        Ok(())
    }
}

/// Where the records of TLS begin: the lower half of a record's version is the one byte that its receiver must ignore
/// (RFC 8446, 5.1), so a flip there is no lie.
#[derive(Default)]
struct Records {
    header: Vec<u8>,
    /// Bytes of the body that are to come.
    body: usize,
}

impl Records {
    fn skip(&mut self, mut bytes: &[u8]) {
        while let Some((first, rest)) = bytes.split_first() {
            if self.body > 0 {
                let count = self.body.min(bytes.len());
                self.body -= count;
                bytes = &bytes[count..];
                continue;
            }
            self.header.push(*first);
            bytes = rest;
            if let [_, _, _, high, low] = self.header[..] {
                self.body = usize::from(u16::from_be_bytes([high, low]));
                self.header.clear();
            }
        }
    }

    /// Whether the byte after these is one to be ignored.
    fn is_ignored(&mut self, before: &[u8]) -> bool {
        self.skip(before);
        self.body == 0 && self.header.len() == 2
    }
}
