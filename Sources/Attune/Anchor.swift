// Carries the linker flags of libattune.so (Package.swift); everything is in AttuneCore.
import AttuneCore
