//! On what devices the ranks of a run compute, and how their gradients reach each other.
//!
//! Every rank tells its device when all have met. Gradients on GPUs go through NCCL, GPU to GPU. NCCL wants a GPU for each
//! rank, and all ranks to have it: where that is not so they go through the host's memory, as those of ranks on processors
//! do, and the log says why. Processors and GPUs in one run are refused: every step would wait for the processors.

use std::collections::BTreeMap;
use std::sync::Arc;

use kindling_collective::{self as collective, Communicator, nccl};

use crate::device::Device;
use crate::error::{Error, Result};

/// How gradients reach the other ranks.
#[derive(Clone)]
pub(crate) enum Carriage {
    /// Through the host's memory: from where they are on a processor, by way of pinned memory from a GPU.
    Host,
    /// From GPU to GPU, in this group.
    Gpus(Arc<dyn Communicator>),
}

/// What a rank tells of its device.
#[derive(Debug, Clone, PartialEq)]
struct Told {
    /// The GPU's own number, as hex; none on a processor.
    gpu: Option<String>,
    /// Its process.
    process: String,
    /// Why the rank has no NCCL; empty if it has.
    without_nccl: String,
}

impl Told {
    fn encode(&self) -> Vec<u8> {
        [self.gpu.as_deref().unwrap_or_default(), &self.process, &self.without_nccl].join("\n").into_bytes()
    }

    fn decode(bytes: &[u8]) -> Told {
        let text = String::from_utf8_lossy(bytes);
        let mut lines = text.splitn(3, '\n').map(str::to_owned);
        let mut next = || lines.next().unwrap_or_default();
        Told { gpu: Some(next()).filter(|gpu| !gpu.is_empty()), process: next(), without_nccl: next() }
    }
}

/// Settles on all ranks together how gradients travel. `process` names this rank's; `waits_in_backward` says whether ranks wait
/// for each other within backward.
pub(crate) fn agree(
    device: Device,
    process: &str,
    waits_in_backward: bool,
    communicator: &Arc<dyn Communicator>,
    options: &nccl::NcclOptions,
) -> Result<Carriage> {
    if communicator.size() == 1 {
        return Ok(Carriage::Host);
    }
    let gpu = device.gpu()?.map(|gpu| gpu.uuid.iter().map(|byte| format!("{byte:02x}")).collect());
    // Ranks on processors do not look for NCCL.
    let nccl = gpu.as_ref().map(|_: &String| nccl::version(None));
    let without_nccl = nccl.and_then(std::result::Result::err).map(|error| error.to_string().replace('\n', " "));
    let own = Told { gpu, process: process.to_owned(), without_nccl: without_nccl.unwrap_or_default() };
    let told = communicator.start_all_gather_bytes(own.encode())?.wait()?;
    let told: Vec<Told> = told.iter().map(|bytes| Told::decode(bytes)).collect();
    match (through_host(&told, waits_in_backward)?, device) {
        (None, Device::Cuda(gpu)) => {
            let aborter = communicator.aborter();
            Ok(Carriage::Gpus(nccl::connect(Arc::clone(communicator), gpu.into(), options, &aborter)?))
        }
        (Some(why), Device::Cuda(_)) => {
            log::warn!("gradients go through the host's memory and not from GPU to GPU: {why}");
            Ok(Carriage::Host)
        }
        (_, Device::Cpu) => Ok(Carriage::Host),
    }
}

/// Why gradients must go through the host's memory; none if they need not.
fn through_host(told: &[Told], waits_in_backward: bool) -> Result<Option<String>> {
    let on_processor = told.iter().position(|rank| rank.gpu.is_none());
    let on_gpu = told.iter().position(|rank| rank.gpu.is_some());
    match (on_gpu, on_processor) {
        (None, _) => return Ok(Some("the ranks compute on processors".to_owned())),
        (Some(gpu), Some(cpu)) => {
            return Err(Error::Config(format!(
                "rank {gpu} computes on a GPU and rank {cpu} on its processor: give every rank a GPU, or set device to cpu"
            )));
        }
        (Some(_), None) => {}
    }
    let mut holders: BTreeMap<&str, usize> = BTreeMap::new();
    let mut shared = None;
    for (rank, Told { gpu, process, .. }) in told.iter().enumerate() {
        let Some(first) = holders.insert(gpu.as_deref().unwrap_or_default(), rank) else { continue };
        // Backward of one GPU runs on one thread of a process: a rank that waits in it for another one waits for itself.
        if waits_in_backward && told.get(first).is_some_and(|other| other.process == *process) {
            return Err(Error::Config(format!(
                "ranks {first} and {rank} share a GPU and a process, and syncBatchNorm has them wait for each other: give each \
                 rank a GPU of its own (spark.task.resource.gpu.amount=1)"
            )));
        }
        shared.get_or_insert_with(|| format!("ranks {first} and {rank} share a GPU"));
    }
    let lacking = told.iter().position(|rank| !rank.without_nccl.is_empty());
    let lacking = lacking.and_then(|rank| Some(format!("rank {rank}: {}", told.get(rank)?.without_nccl)));
    Ok(shared.or(lacking))
}

/// How a rank joins a group of GPUs.
pub(crate) fn nccl_options(options: &collective::Options) -> nccl::NcclOptions {
    nccl::NcclOptions {
        operation_timeout: options.operation_timeout,
        rendezvous_timeout: options.rendezvous_timeout,
        ..nccl::NcclOptions::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::tests::groups;

    fn rank(gpu: &str, process: &str, without_nccl: &str) -> Told {
        let gpu = Some(gpu.to_owned()).filter(|gpu| !gpu.is_empty());
        Told { gpu, process: process.to_owned(), without_nccl: without_nccl.to_owned() }
    }

    #[test]
    fn ranks_with_a_gpu_each_and_nccl_use_it() {
        let told = [rank("aa", "one", ""), rank("bb", "one", ""), rank("cc", "two", "")];
        assert_eq!(through_host(&told, true).unwrap(), None);
    }

    #[test]
    fn a_shared_gpu_and_a_missing_nccl_send_gradients_through_the_host() {
        let shared = [rank("aa", "one", ""), rank("bb", "one", ""), rank("aa", "two", "no NCCL")];
        assert_eq!(through_host(&shared, true).unwrap().unwrap(), "ranks 0 and 2 share a GPU");
        let lacking = [rank("aa", "one", ""), rank("bb", "one", "no NCCL")];
        assert_eq!(through_host(&lacking, true).unwrap().unwrap(), "rank 1: no NCCL");
    }

    #[test]
    fn processors_and_gpus_in_one_run_are_refused_by_rank() {
        let error = through_host(&[rank("", "one", ""), rank("aa", "two", "")], false).unwrap_err().to_string();
        assert!(error.contains("rank 1 computes on a GPU and rank 0 on its processor"), "{error}");
    }

    #[test]
    fn ranks_that_would_wait_for_themselves_are_refused() {
        let told = [rank("aa", "one", ""), rank("aa", "one", "")];
        assert!(through_host(&told, false).unwrap().is_some());
        let error = through_host(&told, true).unwrap_err().to_string();
        assert!(
            error.contains("ranks 0 and 1 share a GPU and a process") && error.contains("syncBatchNorm"),
            "{error}"
        );
    }

    #[test]
    fn what_a_rank_tells_is_what_the_others_hear() {
        for told in [rank("aa01", "proc/1", ""), rank("", "proc", "NCCL cannot be used: why; what")] {
            assert_eq!(Told::decode(&told.encode()), told);
        }
    }

    #[test]
    fn ranks_on_processors_agree_without_nccl() {
        let carriages = groups(2, |_, group| agree(Device::Cpu, "here", true, &group, &nccl::NcclOptions::default()));
        assert!(carriages.into_iter().all(|carriage| matches!(carriage.unwrap(), Carriage::Host)));
    }
}
