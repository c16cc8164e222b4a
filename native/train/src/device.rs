//! Where a replica computes: the processor, or one of the machine's GPUs.
//!
//! A GPU is used only where it was asked for. Then libtorch's CUDA part (`libtorch_cuda.so`, beside the libtorch in use) is
//! opened, once for the process; a process that computes on its processor never does. What cannot be is refused in one
//! sentence before anything is laid out: a libtorch for CPUs, no driver, no such GPU, a GPU too old for this libtorch.
//! Nothing falls back to the processor.
//!
//! All work of a replica on a GPU goes to one stream of its own, a [`Place`]. Whoever works on it enters first.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::{Mutex, PoisonError};

use serde::Deserialize;
use tch::{Kind, Tensor};

use crate::error::{Doing, Error, Result, Torch};
use crate::shim_cuda::{self, Entered, Gpu, Queue};

/// Where a replica's tensors live: `cpu`, or `cuda:1` for the second GPU that CUDA shows to this process (`cuda` is the first).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(try_from = "String")]
pub enum Device {
    /// The processor.
    #[default]
    Cpu,
    /// A GPU, by its number in CUDA.
    Cuda(i8),
}

impl FromStr for Device {
    type Err = Error;

    fn from_str(text: &str) -> Result<Device> {
        let gpu = |number: &str| number.parse().ok().filter(|number: &i8| *number >= 0).map(Device::Cuda);
        match text.split_once(':') {
            None if text == "cpu" => Some(Device::Cpu),
            None if text == "cuda" => Some(Device::Cuda(0)),
            // Numbers are written in one way: "+1" and "01" are mistakes.
            Some(("cuda", number)) => gpu(number).filter(|device| device.to_string() == text),
            _ => None,
        }
        .ok_or_else(|| Error::Config(format!("device is {text:?}: it must be cpu, cuda, or cuda:N for GPU N")))
    }
}

impl TryFrom<String> for Device {
    type Error = Error;

    fn try_from(text: String) -> Result<Device> {
        text.parse()
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Device::Cpu => f.write_str("cpu"),
            Device::Cuda(gpu) => write!(f, "cuda:{gpu}"),
        }
    }
}

/// What a process finds around it.
struct Found {
    /// libtorch's folder, if the dynamic linker tells it.
    folder: Option<PathBuf>,
    /// Whether the CUDA part is in it.
    cuda: bool,
    /// What the driver shows.
    gpus: std::result::Result<Vec<Gpu>, Torch>,
    /// `CUDA_VISIBLE_DEVICES`.
    visible: Option<String>,
}

const LIBRARY: &str = "libtorch_cuda.so";

impl Found {
    fn here() -> Found {
        let folder = shim_cuda::torch_folder();
        let cuda = folder.as_ref().is_some_and(|folder| folder.join(LIBRARY).is_file());
        // The driver is not woken for a libtorch that cannot use it.
        let gpus = if cuda { shim_cuda::gpus() } else { Ok(Vec::new()) };
        Found { folder, cuda, gpus, visible: std::env::var("CUDA_VISIBLE_DEVICES").ok() }
    }

    /// The GPU of that number, and the library to open; or why there is none.
    fn gpu(&self, number: i8) -> std::result::Result<(&Gpu, PathBuf), String> {
        let Some(folder) = self.folder.as_ref().filter(|_| self.cuda) else {
            let folder = self.folder.as_ref().map_or("its folder".to_owned(), |folder| folder.display().to_string());
            return Err(format!(
                "this libtorch is one for CPUs ({folder} holds no {LIBRARY}): install one with CUDA (pip install torch==2.11.0)"
            ));
        };
        let gpus = self.gpus.as_ref().map_err(|reason| format!("{reason}: install the driver of the GPU"))?;
        let gpu = usize::try_from(number).ok().and_then(|number| gpus.get(number)).ok_or_else(|| {
            let visible = self.visible.as_ref().map_or(String::new(), |v| format!(" (CUDA_VISIBLE_DEVICES is {v:?})"));
            format!(
                "there is no GPU {number}: the driver shows {} to this process{visible}: name one of those",
                gpus.len()
            )
        })?;
        Ok((gpu, folder.join(LIBRARY)))
    }
}

/// The GPUs that this process could compute on, by name, or one sentence about why there is none. Opens nothing of libtorch.
pub fn gpus() -> Result<Vec<String>> {
    let found = Found::here();
    found.gpu(0).map_err(|why| Device::Cuda(0).refused(&why))?;
    Ok(found.gpus.unwrap_or_default().into_iter().map(|gpu| gpu.name).collect())
}

impl Device {
    /// libtorch's name for it.
    pub(crate) fn tch(self) -> tch::Device {
        match self {
            Device::Cpu => tch::Device::Cpu,
            Device::Cuda(gpu) => tch::Device::Cuda(usize::try_from(gpu).unwrap_or(0)),
        }
    }

    /// The GPU as the driver describes it; none on the processor.
    pub(crate) fn gpu(self) -> Result<Option<Gpu>> {
        match self {
            Device::Cpu => Ok(None),
            Device::Cuda(gpu) => {
                Found::here().gpu(gpu).map(|(gpu, _)| Some(gpu.clone())).map_err(|why| self.refused(&why))
            }
        }
    }

    fn refused(self, why: &str) -> Error {
        Error::Config(format!("device is {self}, but {why}, or set device to cpu"))
    }
}

/// Opens the CUDA part of libtorch unless it is open.
fn open(library: &std::path::Path) -> std::result::Result<(), Torch> {
    // The process's, as a library that is loaded is.
    static OPEN: Mutex<bool> = Mutex::new(false);
    // One word, so sound whatever happened to the thread that held it.
    let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
    if !*open {
        shim_cuda::open(library)?;
        *open = true;
        let version = shim_cuda::runtime_version()?;
        log::info!("{} is open, with CUDA {}.{}", library.display(), version / 1000, version % 1000 / 10);
    }
    Ok(())
}

/// Where a replica's work is queued: nowhere on the processor, which works at once; on a GPU, a stream.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    device: Device,
    queue: Option<Queue>,
}

impl Place {
    /// The processor.
    pub(crate) const CPU: Place = Place { device: Device::Cpu, queue: None };

    /// Finds the device and proves that it computes; or one sentence about why not.
    pub(crate) fn open(device: Device) -> Result<Place> {
        let Device::Cuda(number) = device else { return Ok(Place::CPU) };
        let found = Found::here();
        let (gpu, library) = found.gpu(number).map_err(|why| device.refused(&why))?;
        open(&library).map_err(|reason| {
            device.refused(&format!(
                "{} cannot be opened ({reason}): install the libraries that it needs, as pip install torch==2.11.0 does",
                library.display()
            ))
        })?;
        let probe = || {
            let one = Tensor::f_ones([1], (Kind::Float, device.tch()))?;
            one.f_add_scalar(1.0)?.f_double_value(&[0])
        };
        probe().map_err(|error| {
            let reason = Torch::new(&error.to_string());
            let (major, minor) = gpu.capability;
            let advice = if reason.0.contains("no kernel image") {
                "this libtorch is not built for its compute capability: use another GPU"
            } else {
                "it cannot be computed on: look at the driver"
            };
            device.refused(&format!("GPU {number} ({}, {major}.{minor}) is of no use ({reason}): {advice}", gpu.name))
        })?;
        Place::new(device)
    }

    fn new(device: Device) -> Result<Place> {
        let queue = match device {
            Device::Cpu => None,
            Device::Cuda(gpu) => Some(Queue::new(gpu).doing("taking a stream")?),
        };
        Ok(Place { device, queue })
    }

    /// Another stream on the same device.
    pub(crate) fn another(&self) -> Result<Place> {
        Place::new(self.device)
    }

    /// Where its tensors are.
    pub(crate) fn tch(&self) -> tch::Device {
        self.device.tch()
    }

    pub(crate) fn queue(&self) -> Option<Queue> {
        self.queue
    }

    /// Until the guard is dropped, this thread's work is queued here.
    pub(crate) fn enter(&self) -> Result<Option<Entered>> {
        self.queue.map(Queue::enter).transpose().doing("entering a stream")
    }

    /// Waits until all that was queued is done, so that work queued elsewhere may build on it.
    pub(crate) fn finish(&self) -> Result<()> {
        self.queue.map_or(Ok(()), Queue::finish).doing("waiting for a GPU")
    }

    /// The tensor on this device: itself if it is there already.
    pub(crate) fn bring(&self, tensor: &Tensor) -> Result<Tensor> {
        tensor.f_to_device(self.tch()).doing("bringing a tensor to its device")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(cuda: bool, gpus: std::result::Result<usize, &str>) -> Found {
        let gpu = Gpu { name: "Fake 9".to_owned(), uuid: [7; 16], memory: 1 << 30, capability: (9, 0) };
        Found {
            folder: Some(PathBuf::from("/opt/torch/lib")),
            cuda,
            gpus: gpus.map(|count| vec![gpu; count]).map_err(|reason| Torch(reason.to_owned())),
            visible: Some("1,3".to_owned()),
        }
    }

    #[test]
    fn devices_are_read_as_they_are_written() {
        for (text, device) in [
            ("cpu", Device::Cpu),
            ("cuda", Device::Cuda(0)),
            ("cuda:0", Device::Cuda(0)),
            ("cuda:12", Device::Cuda(12)),
        ] {
            assert_eq!(text.parse::<Device>().unwrap(), device);
        }
        assert_eq!(serde_json::from_str::<Device>("\"cuda:3\"").unwrap().to_string(), "cuda:3");
    }

    #[test]
    fn what_is_no_device_is_named() {
        for text in ["", "gpu", "CPU", "cpu:0", "cuda:", "cuda:-1", "cuda:+1", "cuda:01", "cuda:1000", "cuda:0:1"] {
            let error = text.parse::<Device>().unwrap_err().to_string();
            assert!(error.contains(&format!("{text:?}")) && error.contains("cuda:N"), "{error}");
        }
    }

    #[test]
    fn what_is_missing_is_said_with_what_to_do() {
        let reason = |found: Found, number| found.gpu(number).map(drop).unwrap_err();
        let cpu_only = reason(found(false, Ok(0)), 0);
        assert!(cpu_only.contains("/opt/torch/lib holds no libtorch_cuda.so") && cpu_only.contains("pip install"));
        let no_driver = reason(found(true, Err("there is no NVIDIA driver here")), 0);
        assert!(no_driver.contains("no NVIDIA driver") && no_driver.contains("install the driver"));
        let beyond = reason(found(true, Ok(2)), 2);
        assert!(
            beyond.contains("no GPU 2: the driver shows 2 to this process (CUDA_VISIBLE_DEVICES is \"1,3\")"),
            "{beyond}"
        );
        let (gpu, library) = found(true, Ok(2)).gpu(1).map(|(gpu, library)| (gpu.clone(), library)).unwrap();
        assert_eq!((gpu.uuid, library), ([7; 16], PathBuf::from("/opt/torch/lib/libtorch_cuda.so")));
    }

    #[test]
    fn the_processor_needs_nothing_and_a_gpu_that_is_not_there_is_refused() {
        let place = Place::open(Device::Cpu).unwrap();
        assert!(place.enter().unwrap().is_none() && place.another().unwrap().queue().is_none());
        place.finish().unwrap();
        // No machine has as many.
        let error = Place::open(Device::Cuda(127)).unwrap_err();
        assert_eq!(error.kind(), crate::ErrorKind::Config);
        let error = error.to_string();
        assert!(error.starts_with("device is cuda:127, but ") && error.ends_with("or set device to cpu"), "{error}");
    }

    /// The CUDA part opens on a machine without a GPU too, and libtorch finds it although a convolution has asked for it
    /// before, and been told that there is none.
    #[test]
    fn libtorch_finds_its_cuda_part_after_it_has_computed_on_the_processor() {
        let library = shim_cuda::torch_folder().unwrap().join(LIBRARY);
        if !library.is_file() {
            println!("skipped: this libtorch is one for CPUs");
            return;
        }
        let image = Tensor::ones([1, 1, 4, 4], (Kind::Float, tch::Device::Cpu)).set_requires_grad(true);
        let convolved = || {
            let weight = Tensor::ones([1, 1, 3, 3], (Kind::Float, tch::Device::Cpu));
            let out = image.conv2d::<Tensor>(&weight, None, [1, 1], [0, 0], [1, 1], 1).sum(Kind::Float);
            out.backward();
            out.double_value(&[])
        };
        assert_eq!(convolved(), 36.0);
        open(&library).unwrap();
        assert!(shim_cuda::runtime_version().unwrap() >= 12_000);
        assert_eq!(convolved(), 36.0, "and goes on computing on the processor");
    }
}
