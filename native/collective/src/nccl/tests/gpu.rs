//! The same on real GPUs. Without one, each test prints why it did nothing; see `GPU.md`.

use super::super::api::{Api, Span, Stream};
use super::*;
use crate::reduce::ReduceOp;
use std::env;

/// The interface if this machine has NCCL and a GPU, and how many GPUs; else says why not.
fn machine(needed: &str) -> Option<(Arc<Api>, i32)> {
    let file = env::var_os("KINDLING_NCCL").map(std::path::PathBuf::from);
    let api = match Api::load(file.as_deref()) {
        Ok(api) => Arc::new(api),
        Err(error) => {
            println!("skipped, {needed} is needed: {error}");
            return None;
        }
    };
    match api.device_count() {
        Ok(count) if count > 0 => Some((api, count)),
        Ok(_) => {
            println!("skipped, {needed} is needed: CUDA shows no GPU");
            None
        }
        Err(fault) => {
            println!("skipped, {needed} is needed: {fault}");
            None
        }
    }
}

/// Memory of a GPU from the pool of the default stream.
struct OnGpu {
    api: Arc<Api>,
    span: Span,
    device: i32,
}

impl DeviceRegion for OnGpu {
    fn address(&self) -> u64 {
        self.span.address
    }
    fn length(&self) -> usize {
        self.span.elements * self.span.dtype.size()
    }
    fn device(&self) -> i32 {
        self.device
    }
    fn stream(&self) -> u64 {
        0
    }
}

impl Drop for OnGpu {
    fn drop(&mut self) {
        let freed = self.api.on_device(self.device, || self.api.free(self.span, &Stream::of(0)));
        assert_eq!(freed, Ok(()));
    }
}

fn upload(api: &Arc<Api>, device: i32, values: &[f32]) -> Buffer {
    let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    let span = api.on_device(device, || api.upload(&bytes, DType::F32)).unwrap();
    Buffer::on_device(Box::new(OnGpu { api: Arc::clone(api), span, device }), DType::F32)
}

fn download(api: &Api, buffer: &Buffer) -> Vec<f32> {
    let region = buffer.device().unwrap();
    let span = Span { address: region.address(), elements: region.length() / 4, dtype: DType::F32 };
    let bytes = api.on_device(region.device(), || api.download(span)).unwrap();
    bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
}

/// Every operation once, in one group whose rank r is on `device(r)`.
fn contract(api: &Arc<Api>, size: usize, device: impl Fn(usize) -> i32 + Sync) {
    bootstraps(size, |bootstrap| {
        let (rank, aborter) = (bootstrap.rank(), bootstrap.aborter());
        let device = device(rank);
        let group = connect_with(Ok(Arc::clone(api)), bootstrap, device, &options(), &aborter).unwrap();
        let mine = |rank: usize| (0..1001).map(|index| (rank * 1000 + index) as f32).collect::<Vec<f32>>();
        let sum: Vec<f32> = (0..1001).map(|index| (0..size).map(|rank| mine(rank)[index]).sum()).collect();
        let fresh = || upload(api, device, &mine(rank));
        let got = |work: Result<crate::Work, Error>| download(api, &work.unwrap().wait().unwrap());

        assert_eq!(got(group.start_all_reduce(fresh(), ReduceOp::Sum)), sum);
        let own = crate::chunk(1001, size, rank);
        assert_eq!(got(group.start_reduce_scatter(fresh(), ReduceOp::Sum))[own.clone()], sum[own]);
        let all: Vec<f32> = (0..size).flat_map(|rank| mine(rank)[crate::chunk(1001, size, rank)].to_vec()).collect();
        assert_eq!(got(group.start_all_gather(fresh())), all);
        assert_eq!(got(group.start_broadcast(fresh(), size - 1)), mine(size - 1));
        let part = |rank: usize| upload(api, device, &vec![rank as f32; 8 * size]);
        let expected: Vec<f32> = (0..size).flat_map(|from| vec![from as f32; 8]).collect();
        assert_eq!(got(group.start_all_to_all(part(rank))), expected);
        if size > 1 {
            let (next, before) = ((rank + 1) % size, (rank + size - 1) % size);
            let sent = group.start_send(fresh(), next);
            assert_eq!(got(group.start_receive(part(99), before)).first(), mine(before).first());
            assert_eq!(got(sent), mine(rank));
        }
        group.start_barrier().unwrap().wait().unwrap();
    });
}

#[test]
fn one_rank_on_a_gpu_keeps_the_contract() {
    if let Some((api, _)) = machine("a GPU") {
        contract(&api, 1, |_| 0);
    }
}

#[test]
fn two_ranks_keep_the_contract() {
    let Some((api, count)) = machine("two GPUs, or one and KINDLING_NCCL_SHARED_GPU=1") else { return };
    if count > 1 {
        contract(&api, 2, |rank| i32::try_from(rank).unwrap());
    } else if env::var_os("KINDLING_NCCL_SHARED_GPU").is_some() {
        contract(&api, 2, |_| 0);
    } else {
        println!("skipped: two GPUs, or one and KINDLING_NCCL_SHARED_GPU=1, are needed");
    }
}

#[test]
fn a_rank_that_does_not_come_is_aborted_on_a_real_gpu() {
    let Some((api, count)) = machine("two GPUs, or one and KINDLING_NCCL_SHARED_GPU=1") else { return };
    if count < 2 && env::var_os("KINDLING_NCCL_SHARED_GPU").is_none() {
        println!("skipped: two GPUs, or one and KINDLING_NCCL_SHARED_GPU=1, are needed");
        return;
    }
    let given_up = std::sync::Barrier::new(2);
    bootstraps(2, |bootstrap| {
        let (rank, aborter) = (bootstrap.rank(), bootstrap.aborter());
        let device = if count > 1 { i32::try_from(rank).unwrap() } else { 0 };
        let options = NcclOptions {
            operation_timeout: Duration::from_secs(5),
            rendezvous_timeout: Duration::from_secs(60),
            ..NcclOptions::default()
        };
        let group = connect_with(Ok(Arc::clone(&api)), bootstrap, device, &options, &aborter).unwrap();
        if rank == 0 {
            let work = group.start_all_reduce(upload(&api, device, &[1.0; 1024]), ReduceOp::Sum).unwrap();
            let error = refusal(work.wait());
            given_up.wait();
            assert_eq!(error.culprit(), Some(1), "{error}");
        } else {
            given_up.wait();
            assert_eq!(refusal(group.start_barrier()).culprit(), Some(1));
        }
    });
}
