# The way into an image that runs in an SGX enclave, and out of it: the one page of Myelin's own that stands beside the image.
#
# docs/abi.md ("Under SGX") says what it does and where everything lies. `src/myelin/image/sgx/trampoline.bin` is this file,
# assembled; a test assembles it again and compares.
#
# EENTER gives rax = CSSA, rbx = this thread's TCS, rcx = the address behind EENTER, and rip; everything else, rsp and the
# flags among it, is the host's choice. In: rdi = what to do (0 enter the image, 1 make a report), rsi = the shared region.
# Out, by EEXIT: rdi = the answer. What is left in the other registers is the host's own or zero.
#
# Nothing is read or written before this thread is on its own stack, and nothing outside the enclave but the shared region.

    .intel_syntax noprefix
    .text

    .set base,          0x08000000      # where this page lies
    .set slots,         0x08010000      # slot n's TCS lies at slots + n * 0x4000, its SSA frame one page above
    .set slot_shift,    14
    .set stack_end,     0x4000          # from the TCS
    .set target_info,   0x3000          # from the TCS: the stack's page has room for what EREPORT works on
    .set private_data,  0x3200
    .set report,        0x3400
    .set request,       0x1000          # from the shared region
    .set reply,         0x101000
    .set refused,       3
    .set ereport,       0
    .set eexit,         4

trampoline:
    cld
    test    rax, rax                    # CSSA: no entry while an exception is being handled. There is nothing that
    jnz     bad                         # handles one; that each TCS has one SSA frame says the same to the processor
    lea     rax, [rip + trampoline]     # the image's addresses are absolute, and MRENCLAVE does not say where the enclave
    cmp     rax, offset base            # lies: anywhere else they would lead out of it
    jne     bad

    mov     rax, rsp
    lea     rsp, [rbx + stack_end]
    push    rax                         # the host's stack pointer
    push    rcx                         # where EEXIT goes
    push    0x202
    popfq                               # no direction, trap or alignment-check flag

    mov     eax, refused
    test    esi, 0xfff
    jnz     leave
    mov     rcx, rsi                    # the shared region begins at 2 GiB, where the enclave's range ends, or above, and
    shr     rcx, 31                     # below 2^47, so that it cannot wrap: all of it is outside
    jz      leave
    shr     rcx, 16
    jnz     leave
    lfence                              # nothing below is done on a guess that these hold

    cmp     rdi, 1
    ja      leave
    je      attest

    mov     rdi, rbx
    sub     rdi, offset slots
    shr     rdi, slot_shift
    call    [rip + entry]               # rdi = slot, rsi = shared region, as docs/abi.md has it; scrubs what it used
    jmp     leave

attest:                                 # by slot 0 alone, so never while the image handles a message
    cmp     rbx, offset slots
    jne     leave
    mov     r8, rsi
    add     rsi, request
    lea     rdi, [rbx + target_info]
    mov     ecx, 512 / 8
    rep movsq                           # TARGETINFO: whom the report is for. A private copy, of a fixed size
    mov     rsi, [rip + report_data]
    mov     ecx, 64 / 8
    rep movsq                           # what the image says of itself, and nobody else can
    lea     rcx, [rbx + private_data]
    lea     rdx, [rbx + report]
    lea     rbx, [rbx + target_info]
    mov     eax, ereport
    enclu
    mov     rsi, rdx
    lea     rdi, [r8 + reply]
    mov     ecx, 432 / 8
    rep movsq                           # REPORT
    xor     eax, eax

leave:                                  # rax = the answer
    mov     rdi, rax
    pop     rbx
    pop     rsp
    jmp     exit

bad:                                    # as it came: no memory of the enclave is touched
    mov     rbx, rcx
    mov     edi, refused

exit:
    xor     edx, edx
    xor     esi, esi
    xor     r8d, r8d
    xor     r9d, r9d
    xor     r10d, r10d
    xor     r11d, r11d
    mov     eax, eexit
    enclu                               # rcx becomes the asynchronous exit pointer
    ud2

    .balign 16, 0xcc
    .org    trampoline + 0xff0, 0xcc
entry:                                  # of the image; both are written in when the enclave is laid out
    .quad   0
report_data:                            # 64 bytes of the image's data
    .quad   0
