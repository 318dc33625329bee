//! Counts the allocations of this process, if it was built with the feature `allocations`.

#[cfg(feature = "allocations")]
#[global_allocator]
static COUNTING: &stats_alloc::StatsAlloc<std::alloc::System> = &stats_alloc::INSTRUMENTED_SYSTEM;

/// Allocations so far, growing and shrinking included.
pub(crate) fn count() -> Option<u64> {
    #[cfg(feature = "allocations")]
    {
        let stats = COUNTING.stats();
        u64::try_from(stats.allocations + stats.reallocations).ok()
    }
    #[cfg(not(feature = "allocations"))]
    None
}
