//! What the kernel and the processor take, byte for byte: Linux's `asm/sgx.h`, and the Intel SDM, volume 3D, chapter 37.

/// `SGX_IOC_ENCLAVE_CREATE`: `_IOW(0xa4, 0, struct sgx_enclave_create)`.
pub const CREATE: u32 = 0x4008_a400;
/// `SGX_IOC_ENCLAVE_ADD_PAGES`: `_IOWR(0xa4, 1, struct sgx_enclave_add_pages)`.
pub const ADD_PAGES: u32 = 0xc030_a401;
/// `SGX_IOC_ENCLAVE_INIT`: `_IOW(0xa4, 2, struct sgx_enclave_init)`.
pub const INIT: u32 = 0x4008_a402;

/// All requests, for the system-call list. The key for provisioning is not asked for: an image has no use for it.
pub const REQUESTS: [u32; 3] = [CREATE, ADD_PAGES, INIT];

/// The page is measured, all of it.
pub const MEASURE: u64 = 1;

/// Rights and kinds of a page, in [`SecInfo::flags`].
pub mod page {
    /// May be read.
    pub const READ: u64 = 1;
    /// May be written.
    pub const WRITE: u64 = 2;
    /// May be executed.
    pub const EXECUTE: u64 = 4;
    /// A thread's control structure. It has no rights: only the processor reads or writes it.
    pub const THREAD: u64 = 1 << 8;
    /// A page as any other.
    pub const REGULAR: u64 = 2 << 8;
}

/// 64-bit mode, and nothing else: no debugging, no provisioning key, no launch key.
pub const ATTRIBUTES: u64 = 1 << 2;

/// Bytes of SIGSTRUCT.
pub const SIGSTRUCT_BYTES: usize = 1808;
/// Bytes of TARGETINFO.
pub const TARGET_INFO_BYTES: usize = 512;
/// Bytes of a REPORT.
pub const REPORT_BYTES: usize = 432;

/// `struct sgx_enclave_create`.
#[repr(C)]
pub struct Create {
    /// Address of a page that holds the SECS.
    pub source: u64,
}

/// `struct sgx_enclave_add_pages`.
#[repr(C)]
pub struct AddPages {
    /// Address of the contents, page-aligned.
    pub source: u64,
    /// Where they go, from the enclave's base.
    pub offset: u64,
    /// Bytes.
    pub length: u64,
    /// Address of the [`SecInfo`].
    pub section: u64,
    /// [`MEASURE`] or 0.
    pub flags: u64,
    /// Out: bytes added.
    pub count: u64,
}

/// `struct sgx_enclave_init`.
#[repr(C)]
pub struct Init {
    /// Address of the SIGSTRUCT.
    pub structure: u64,
}

/// SECS: what is known of an enclave before it has pages. A page of its own.
#[repr(C, align(4096))]
pub struct Secs {
    /// Bytes of the enclave's range.
    pub size: u64,
    /// Where the range begins.
    pub base: u64,
    /// Pages of a save area.
    pub frame_pages: u32,
    /// What else is saved on an exception.
    pub misc_select: u32,
    reserved1: [u8; 24],
    /// The first word of ATTRIBUTES.
    pub attributes: u64,
    /// The second: the registers that it may use.
    pub xfrm: u64,
    reserved2: [u8; 4032],
}

impl Secs {
    /// With zeros in what is the processor's.
    pub fn new(base: u64, size: u64, frame_pages: u32, xfrm: u64) -> Self {
        let (reserved1, reserved2, misc_select, attributes) = ([0; 24], [0; 4032], 0, ATTRIBUTES);
        Self { size, base, frame_pages, misc_select, reserved1, attributes, xfrm, reserved2 }
    }
}

/// SECINFO: a page's rights and kind.
#[repr(C, align(64))]
pub struct SecInfo {
    /// Of [`page`].
    pub flags: u64,
    reserved: [u8; 56],
}

impl SecInfo {
    /// With these flags.
    pub fn new(flags: u64) -> Self {
        Self { flags, reserved: [0; 56] }
    }
}

/// `struct sgx_enclave_run`.
#[repr(C)]
pub struct Run {
    /// Address of the TCS.
    pub thread: u64,
    /// The last function of the processor: [`EEXIT`] after an orderly exit.
    pub function: u32,
    /// The exception, where there was one.
    pub vector: u16,
    error_code: u16,
    address: u64,
    handler: u64,
    handler_data: u64,
    reserved: [u8; 216],
}

/// Goes into an enclave.
pub const EENTER: u32 = 2;
/// Goes back into one that an interrupt or an exception has left.
pub const ERESUME: u32 = 3;
/// Leaves an enclave.
pub const EEXIT: u32 = 4;

impl Run {
    /// For entries by one TCS, without a handler.
    pub fn new(thread: u64) -> Self {
        let (function, vector, error_code, address) = (EENTER, 0, 0, 0);
        Self { thread, function, vector, error_code, address, handler: 0, handler_data: 0, reserved: [0; 216] }
    }
}

const _: () = {
    assert!(size_of::<Create>() == 8 && size_of::<AddPages>() == 48 && size_of::<Init>() == 8);
    assert!(size_of::<Secs>() == 4096 && size_of::<SecInfo>() == 64 && size_of::<Run>() == 256);
};
