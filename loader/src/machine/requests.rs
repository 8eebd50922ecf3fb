//! The requests to KVM that this loader makes, by number, for the system-call lists.

use kvm_bindings::{kvm_cpuid2, kvm_regs, kvm_sregs, kvm_userspace_memory_region, kvm_xcrs};

/// The kernel's `_IOC(direction, KVMIO, number, size)`.
const fn request(direction: u32, number: u32, size: usize) -> u32 {
    // Sizes here are of kernel structures, below the 14 bits that there are.
    direction << 30 | (size as u32 & 0x3fff) << 16 | 0xae << 8 | number
}

const NONE: u32 = 0;
const WRITE: u32 = 1;
const READ: u32 = 2;

/// While the image runs: go in, and set what the processor holds.
pub const RUNNING: [u32; 2] = [
    request(NONE, 0x80, 0),                      // KVM_RUN
    request(WRITE, 0x82, size_of::<kvm_regs>()), // KVM_SET_REGS
];

/// While the machine is made, besides.
pub const MAKING: [u32; 10] = [
    request(NONE, 0x00, 0),                                         // KVM_GET_API_VERSION
    request(NONE, 0x01, 0),                                         // KVM_CREATE_VM
    request(NONE, 0x04, 0),                                         // KVM_GET_VCPU_MMAP_SIZE
    request(READ | WRITE, 0x05, size_of::<kvm_cpuid2>()),           // KVM_GET_SUPPORTED_CPUID
    request(NONE, 0x41, 0),                                         // KVM_CREATE_VCPU
    request(WRITE, 0x46, size_of::<kvm_userspace_memory_region>()), // KVM_SET_USER_MEMORY_REGION
    request(READ, 0x83, size_of::<kvm_sregs>()),                    // KVM_GET_SREGS
    request(WRITE, 0x84, size_of::<kvm_sregs>()),                   // KVM_SET_SREGS
    request(WRITE, 0x90, size_of::<kvm_cpuid2>()),                  // KVM_SET_CPUID2
    request(WRITE, 0xa7, size_of::<kvm_xcrs>()),                    // KVM_SET_XCRS
];

#[cfg(test)]
mod tests {
    use super::{MAKING, RUNNING};

    #[test]
    fn numbers_are_the_kernels() {
        assert_eq!(RUNNING, [0xae80, 0x4090_ae82]);
        let making = [
            0xae00,
            0xae01,
            0xae04,
            0xc008_ae05,
            0xae41,
            0x4020_ae46,
            0x8138_ae83,
            0x4138_ae84,
            0x4008_ae90,
            0x4188_aea7,
        ];
        assert_eq!(MAKING, making);
    }
}
